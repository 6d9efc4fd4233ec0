"""Groups of channels that are removed together: tracing, exact cost, surgery. Imports errors and a default of sweep."""
