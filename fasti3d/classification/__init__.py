"""From a video to the classes of its actions, and their picture."""
