"""In the middle: schedules campaigns and forwards sealed frames that it cannot read."""
