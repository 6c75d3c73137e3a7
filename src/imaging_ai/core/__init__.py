"""The vocabulary: values and rules of the domain, no input or output."""
