"""What all displays do: they are computed, and drawn on axes."""

from abc import abstractmethod
from typing import Self

from sklearn_maml._typing import Axes

__all__ = ["Display", "certificate_of", "check_axes", "plain_log_scale"]


class Display:
    """What all displays do; each draws itself on axes in `_draw`."""

    @abstractmethod
    def _draw(self, ax):
        """Draw on axes."""

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw on `ax`, or on new axes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self : object
            With `ax_` and `figure_`, what was drawn on.
        """
        import matplotlib.pyplot as plt

        if ax is not None:
            check_axes(ax)
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self._draw(self.ax_)
        self.ax_.legend(frameon=False)
        return self


def check_axes(ax):
    """Raise for what cannot be drawn on; asked without matplotlib."""
    if not hasattr(type(ax), "set_xlabel"):
        raise TypeError(f"ax must be matplotlib Axes or None; got {type(ax).__name__}.")


def certificate_of(model):
    """The certificate of a fit; raises where it was fitted without one."""
    if model.gap_certificate_ is None:
        raise ValueError(
            f"The {type(model).__name__} was fitted with certificate=None, so there is none to "
            "draw; fit it with certificate='fast'."
        )
    return model.gap_certificate_


def plain_log_scale(ax):
    """A logarithmic y axis with plain numbers, also between the powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
