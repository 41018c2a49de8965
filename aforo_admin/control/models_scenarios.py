"""Scenarios of the what-if, as people keep them. They are no part of the catalog."""

from django.db import models

NAME_CHARS_MAX = 100
KIND = "scenario"  # As the record names it.


class Scenario(models.Model):
    """What somebody asked, and the sums of the answer when it was kept."""

    name = models.CharField(max_length=NAME_CHARS_MAX, unique=True)
    author = models.TextField()
    month = models.CharField(max_length=7, blank=True, default="")
    changes = models.JSONField(help_text="As docs/what-if.md writes it.")
    summary = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return str(self.name)
