"""Whatever is registered, as instances to try: a new part is tested by its line in a registry."""

import pytest


def examples(registry, wanted=lambda part: True):
    """A pytest parameter for each example of each class in a registry, those wanted."""
    classes = dict.fromkeys(registry.values())  # one class may be known under two names
    return [
        pytest.param(part, id=f"{cls.__name__} {i}")
        for cls in classes
        for i, part in enumerate(cls.examples())
        if wanted(part)
    ]
