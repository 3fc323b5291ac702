"""`catreparam bench`: the speed of every path and every installed peer."""
