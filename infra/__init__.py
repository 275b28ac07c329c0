"""What any such project needs: config, errors, storage, runs, logging, progress, launching. No domain words."""
