"""Tables of text, for what people read: printed, or as HTML in notebooks."""

from html import escape

__all__ = ["LEFT", "html_rows", "text_rows"]

# Of cells that hold words: notebooks align the cells of tables to the right.
LEFT = 'style="text-align:left; white-space:pre-wrap"'


def text_rows(table, indent="  "):
    """Lines of text: the first column to the left, the others to the right.

    Parameters
    ----------
    table : list of tuple of str
        Rows, all of one length.
    indent : str, default="  "

    Returns
    -------
    list of str
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        row = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{indent}{name:<{widths[0]}}", *row]).rstrip())
    return lines


def html_rows(table, style=""):
    """The rows of an HTML table, escaped; `style` is an attribute of each cell."""
    opening = f"<td {style}>" if style else "<td>"
    return "".join(
        "<tr>" + "".join(f"{opening}{escape(cell)}</td>" for cell in row) + "</tr>" for row in table
    )
