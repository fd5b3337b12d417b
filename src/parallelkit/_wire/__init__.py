"""What passes between the parent and a worker process: frames, pickles, claims. Process backend only."""
