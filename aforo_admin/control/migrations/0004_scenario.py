from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("control", "0003_api"),
    ]

    operations = [
        migrations.CreateModel(
            name="Scenario",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                ("author", models.TextField()),
                ("month", models.CharField(blank=True, default="", max_length=7)),
                ("changes", models.JSONField(help_text="As docs/what-if.md writes it.")),
                ("summary", models.JSONField(default=dict)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "ordering": ("name",),
            },
        ),
    ]
