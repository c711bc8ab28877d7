"""The demo's container images; ``python -m demo.images`` builds what is not built yet."""
