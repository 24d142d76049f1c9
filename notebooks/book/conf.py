"""How Sphinx makes the book of `make book` from the stored notebooks and the Markdown pages; nothing is executed."""
project = html_title = "ldm_edu"
author = "the authors of ldm_edu"
root_doc = "README"    # of the repository, which is the source folder
include_patterns = ["README.md", "notebooks/*", "ldm_edu/README.md", "data/tiny-worlds/README.md"]
exclude_patterns = [".*", "out", "tests", "runs", "build", "**/.*"]
extensions = ["myst_nb", "sphinx.ext.githubpages"]    # the second writes .nojekyll
html_theme = "sphinx_book_theme"
html_theme_options = {"navbar_persistent": []}    # the search box of the sidebar is enough
html_static_path = html_css_files = ["book.css"]

nb_execution_mode = "off"
nb_code_prompt_show = "Show the {type}"    # of a solution, or of what only draws
nb_code_prompt_hide = "Hide the {type}"
myst_enable_extensions = ["dollarmath"]    # $x_t$; MathJax comes from its CDN
myst_heading_anchors = 3                   # as GitHub makes them

CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: Chapters
notebooks/[0-9]*
```

```{toctree}
:hidden:
:caption: More
notebooks/your_own_pictures
notebooks/glossary
notebooks/instructors
ldm_edu/README
The model card <data/tiny-worlds/README>
```
"""


def setup(app):
    """Add what GitHub needs no word for, the order of the pages; give each picture its alternative text."""
    from myst_nb.core.render import NbElementRenderer as Renderer  # not above: a test reads this file without Sphinx

    def add_contents(app, page, source):
        source[0] += CONTENTS * (page == root_doc)

    def render_image(self, data, render=Renderer.render_image):    # which takes only the size from the metadata
        image, = render(self, data)
        image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
        return [image]

    app.connect("source-read", add_contents)
    Renderer.render_image = render_image
