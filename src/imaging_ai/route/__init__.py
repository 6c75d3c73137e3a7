"""From received series to jobs: completeness of a series, the rules, and the router that joins them."""
