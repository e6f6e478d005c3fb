import django.db.models.deletion
from django.db import migrations, models

import status.addresses


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Lease",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("holder", models.UUIDField()),
                ("expires", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Service",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                (
                    "url",
                    models.URLField(
                        unique=True,
                        validators=[status.addresses.validate_url],
                        verbose_name="URL",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Result",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("up", "Up"), ("slow", "Slow"), ("down", "Down")], max_length=4
                    ),
                ),
                ("milliseconds", models.PositiveIntegerField()),
                ("detail", models.CharField(max_length=100)),
                ("checked", models.DateTimeField(auto_now_add=True, db_index=True)),
                (
                    "service",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="results",
                        to="status.service",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
            },
        ),
    ]
