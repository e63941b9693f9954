"""The meta-objective ``L(theta) = sum_i p_i risk_query_i(theta_i)``, and what follows from it."""
