"""A knowledge service on Ray Data and Ray Serve: question answering over documents, with memory."""
