"""HTTP servers: uvicorn with bounds on what a connection may cost."""
