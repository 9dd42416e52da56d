"""The command `testbed`: one verb a file, each with a click command named `command`."""
