"""Networks of sandboxes: allowed names and addresses, published ports, and the proxy."""
