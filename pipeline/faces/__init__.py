"""Face detection, tracking and region parsing behind one interface."""
