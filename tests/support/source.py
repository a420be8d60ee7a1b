"""What is written in a source file."""

import ast
from pathlib import Path


def imports(path: Path) -> set[str]:
    """Everything that a file imports, inside functions too; modules and the names taken out of them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found
