"""What metric="auto" and criterion="auto" of a proximal step stand for."""

__all__ = ["chosen_structure"]

# "auto" fits a mixed model with a full covariance up to the first number of random effects, and one
# with less of a structure up to the second: beyond, matrices of that size for each task cost too
# much.
MANY_EFFECTS, TOO_MANY_EFFECTS = 15, 100

# With losses that are not squares, tasks tell less: a full covariance wants so many an entry.
TASKS_AN_ENTRY = 2


def chosen_structure(rule, problem, n_effects):
    """Structure of the metric, criterion and the reason for them."""
    square, n_tasks = problem.loss.constant_hessian, problem.n_tasks
    if rule.metric == "low_rank" and (rule.criterion == "query" or not square):
        raise ValueError(
            "metric='low_rank' is learned by REML, the likelihood of the squared error; got "
            f"criterion={rule.criterion!r} and {problem.loss!r}. Use metric='diagonal' there."
        )
    if rule.metric != "auto":
        criterion = "reml" if rule.metric in ("full", "low_rank") else "query"
        criterion = criterion if rule.criterion == "auto" else rule.criterion
        return rule.metric, None if rule.metric == "identity" else criterion, "as asked for"
    reason = f"{n_effects} parameter(s) can differ between tasks"
    n_entries = n_effects * (n_effects + 1) // 2
    if n_effects <= MANY_EFFECTS and not square and n_tasks < TASKS_AN_ENTRY * n_entries:
        few = f"{n_tasks} tasks are few for the {n_entries} entries of a full covariance"
        return "diagonal", "reml", f"{reason}, and {few}"
    if n_effects <= MANY_EFFECTS:
        return "full", "reml", f"{reason}, few enough for a full covariance"
    if n_effects <= TOO_MANY_EFFECTS:
        kind = "auto" if square else "diagonal"
        # Whoever only compares sets of features need not compare structures for each of them, too.
        kind = "intercept" if problem.coarse and square else kind
        return kind, "reml", f"{reason}, too many for a full covariance"
    return "intercept", "query", f"{reason}, too many for a variance each"
