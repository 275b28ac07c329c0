"""Where videos come from: listing, identity by content, labels and splits."""
