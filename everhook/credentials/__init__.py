"""What an endpoint adds to its requests so that its receiver lets them in: custom headers, and `auth`."""
