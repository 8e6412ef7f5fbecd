"""The matrix init x task x seed: what a YAML asks for, what is done, and running what is not."""
