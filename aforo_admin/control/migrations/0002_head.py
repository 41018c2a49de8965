"""The head of the record, which whoever changes the catalog locks."""

from typing import Any, ClassVar

from django.db import migrations


def make_head(apps: Any, _schema_editor: Any) -> None:
    apps.get_model("control", "Head").objects.get_or_create(pk=1)


class Migration(migrations.Migration):
    dependencies: ClassVar = [("control", "0001_initial")]
    operations: ClassVar = [migrations.RunPython(make_head, migrations.RunPython.noop)]
