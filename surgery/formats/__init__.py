"""The files of ncnn, `.param` and `.bin`: read, check, write; what each layer's numbers mean."""
