"""Files of synthetic volumes: requests, writers, the engine, rejection of bad volumes."""
