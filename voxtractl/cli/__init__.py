"""The command line: parse, call one function, hand its value to the printer. Nothing depends on it."""
