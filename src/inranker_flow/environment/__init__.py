"""The environment of a process: what is mounted into it, each variable that is read, and changes of it."""
