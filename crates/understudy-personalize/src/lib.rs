//! Personalization methods as attachments, objectives and recipes; adapter files.
