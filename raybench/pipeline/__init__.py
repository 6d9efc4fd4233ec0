"""The stages of a trial, each a function from frozen records to a frozen record."""
