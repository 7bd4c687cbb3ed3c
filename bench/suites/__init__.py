"""The package's suites: each module defines SPECS."""
