"""`tidegate bench`: one step between real processes on generated data, timed from file to file."""
