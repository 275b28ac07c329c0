"""Videos in, a versioned WebDataset of face clips out."""
