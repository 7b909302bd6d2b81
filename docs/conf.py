"""The site: `sphinx-build -W --keep-going -b html docs site`, with the dependency group `docs`."""

from importlib import metadata

project = "hfs-providers"
author = "the authors of hfs-providers"
copyright = f"{author}, MIT licence"
release = version = metadata.version("hfs-providers")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
# Subclasses of Agno's classes would repeat all of Agno's names.
autodoc_inherit_docstrings = False
default_role = "code"

html_theme = "furo"
html_title = f"hfs-providers {release}"
html_extra_path = ["agents.schema.json"]
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
