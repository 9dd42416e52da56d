"""The command `testbed`: one verb a file, each with a click command of its name."""
