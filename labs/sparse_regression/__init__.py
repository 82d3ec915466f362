"""Five weights, three points, six solvers: the exercise on sparse linear models, with figures."""
