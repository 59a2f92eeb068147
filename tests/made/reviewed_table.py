"""What the audited table of these tests is like, and how it is audited."""

from truepair.config import ModelConfig, OptimisationConfig, SourceConfig, TeacherConfig
from truepair.config.audit import AuditConfig

QUICK = AuditConfig(
    folds=2,
    repetitions=1,
    method=TeacherConfig(
        fold_epochs=6,
        epochs=6,
        optimisation=OptimisationConfig(learning_rate=2e-3, schedule="cosine", weight_average=0.9),
    ),
    model=ModelConfig(embedding=64),
    batch_size=32,
    cards=10,
)
COLUMNS = SourceConfig(
    image_col="picture",
    caption_col=("text",),
    caption_id_col="key",
    image_feature_col="seen",
    caption_feature_col="said",
)
EVIL = '<script src="http://evil.example/x.js">alert("1")</script> & "quotes"'
ROWS = 120
BROKEN = 7
"""The image whose picture is broken, which nobody notices before it is looked at: the table has features."""
