"""What SA-GR Flow learns from beside a step itself: the frame after some actions, and the one before."""
