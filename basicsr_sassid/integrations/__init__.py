"""Networks of this package inside other programs."""
