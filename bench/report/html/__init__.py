"""The results as one self-contained HTML page, and `bench explain`: where a number comes from."""
