"""What a library can be built from. A file in this folder is one; `eco data build-corpus --recipe` names it."""
