"""Render mathematics with KaTeX, which docs/_static/katex holds: no network."""

from docutils import nodes
from sphinx.util.math import get_node_equation_number


def visit_math(self, node):
    self.body.append(f'<span class="tex">{self.encode(node.astext())}</span>')
    raise nodes.SkipNode


def visit_displaymath(self, node):
    self.body.append(self.starttag(node, "div", CLASS="equation"))
    self.body.append(f'<div class="tex display">{self.encode(node.astext())}</div>')
    if node["number"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("katex", (visit_math, None), (visit_displaymath, None))
    app.add_css_file("katex/katex.min.css")
    app.add_js_file("katex/katex.min.js", loading_method="defer")
    app.add_js_file("katex/render.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
