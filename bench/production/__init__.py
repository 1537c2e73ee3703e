"""An application at work beside pgkeep: who waits for whom, what fails, how far replicas lag."""
