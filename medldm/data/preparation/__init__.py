"""From a hospital's folders to a cohort."""
