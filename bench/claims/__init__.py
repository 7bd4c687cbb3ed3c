"""The paper's claims, each with what was measured of it, and whether it holds."""
