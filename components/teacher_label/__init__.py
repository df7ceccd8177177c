"""KFP component `teacher_label`."""
