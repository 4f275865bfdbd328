"""Programs tried on datasets: metrics, evaluation, and the search for better instructions."""
