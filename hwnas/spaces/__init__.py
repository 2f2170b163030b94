"""Search spaces: encodings, sampling, repair, blocks and layer graphs."""
