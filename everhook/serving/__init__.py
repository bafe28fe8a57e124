"""HTTP servers: uvicorn with limits on the cost of a connection."""
