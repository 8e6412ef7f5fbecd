"""The scenes benchmark: replicates are run, their numbers kept, and SCENES.md made of them."""
