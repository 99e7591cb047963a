"""Training of the scene models; ``python3 dev.py train scenes-...`` runs the stages."""
