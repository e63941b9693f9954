"""The order of the gallery: new groups first, then other losses, then how it works."""

ORDER = (
    *("new_person", "stores_dataframe", "growth_curves", "first_rows", "intervals"),
    *(
        "from_mixed_models",
        "task_effects",
        "any_regressor",
        "sinusoids",
        "classification",
        "counts",
        "robust_loss",
    ),
    *("choosing_rule", "certificate_routes", "certificate_width", "gap_along_descent"),
    *("first_order", "streaming", "own_parts"),
)


class Order:
    """A key to sort the file names of a gallery by; what is not named comes last."""

    def __init__(self, src_dir):
        pass

    def __call__(self, filename):
        name = filename.removeprefix("plot_").removesuffix(".py")
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)
